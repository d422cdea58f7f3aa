"""The --help texts of smtp-spool."""

from __future__ import annotations

HELP = """\
usage: smtp-spool [--config FILE] COMMAND

Accepts mail durably and sends it through a relay.

  sendmail [-t] [-i] [-f FROM] [-F NAME] [RCPT...]
                    queue the message on standard input
  run [--drain]     send what is queued, for ever; with --drain until nothing is due
  list [--all] [--json]
                    what is not sent yet, a line for each recipient; --all: sent ones too
  count             the number of recipients still to be sent to

The config is the first of: --config FILE, $MAIL_CONFIG, ~/.config/semguard/mail.toml, /etc/semguard/mail.toml.
Without a [relay] in it, mail is delivered into a Maildir.
Called as `sendmail` or `mailq` it behaves as these. `smtp-spool COMMAND --help` tells more.
"""
SENDMAIL_HELP = """\
usage: smtp-spool sendmail [-t] [-i] [-f FROM] [-F NAME] [RCPT...]

Reads one message from standard input and queues it. Exit status 0 means that it is on disk.

  RCPT       an address; a bare name is looked up in [aliases], else it is NAME@HOSTNAME
  -t         take recipients from To, Cc and Bcc too; Bcc is removed
  -i         a line with a single dot does not end the message (also -oi)
  -f FROM    the sender of the envelope ('' or '<>': none); default: USER@HOSTNAME (also -r)
  -F NAME    the name in From, when the message has no From
  -bp        list the queue instead

Known and without effect: -A -B -C -G -I -L -N -O -R -U -V -X -bm -c -d -e -h -m -n -o -p -q -v -x.
Added when missing: From, Message-ID, Date. Removed: Bcc, Resent-Bcc, Return-Path, Content-Length.

Exit status: 0 queued, 64 wrong usage, 65 wrong message or address, 74 or 75 not taken, try again,
77 not allowed, 78 mistake in the config.
"""
RUN_HELP = """\
usage: smtp-spool run [--drain]

Sends what is queued, through the relay or into the Maildir, and waits for more. One sender works on a spool.
SIGTERM: the mail in hand is finished within seconds, then it ends with status 0.

  --drain    end when nothing is due: status 0, or 75 when the relay is in trouble

Exit status: 0 ended as asked, 64 wrong usage, 75 try again (also: another sender is at work), 77 not allowed,
78 mistake in the config.
"""
LIST_HELP = """\
usage: smtp-spool list [--all] [--json]

A line for each recipient that was not sent to: mail, age, state, attempts, next try, address, last answer.

  --all      those sent to as well
  --json     {"version": 1, "recipients": [{"mail_id", "sender", "address", "state", "attempts", "unknowns",
             "due_at", "answer", "message_id", "size_bytes", "created_at"}]}; times are Unix seconds
"""
COUNT_HELP = """\
usage: smtp-spool count

Writes the number of recipients still to be sent to: queued, sending, deferred or unknown.
"""
