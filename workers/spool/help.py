"""The --help texts of smtp-spool."""

from __future__ import annotations

HELP = """\
usage: smtp-spool [--config FILE] COMMAND

Accepts mail durably and sends it through a relay.

  sendmail [-t] [-i] [-f FROM] [-F NAME] [-bs] [RCPT...]
                    queue the message on standard input
  add               queue mails from JSON lines on standard input
  send TEMPLATE --to ADDRESS --data JSON
                    queue a mail from a template; preview TEMPLATE --data JSON shows it
  run [--drain]     send what is queued, for ever; with --drain until nothing is due

  list [--all] [--json]      what is not sent, a line for each recipient; --all: sent ones too
  show ID, why ID [--json]   one mail; what it waits for and until when
  stats [--json], count      the books; the number of recipients still to be sent to
  retry, hold, release, cancel, delete
                             ID..., --state STATE, --to ADDRESS or --all
  check                      the config, then each relay: connect, TLS, login; sends nothing
  prune, update-schema       old mails, the database's schema; both are done by themselves too

The config is the first of: --config FILE, $MAIL_CONFIG, ~/.config/semguard/mail.toml, /etc/semguard/mail.toml.
Relative paths in it start at its own folder. Without a [relay] in it, mail is delivered into a Maildir.
Called as `sendmail`, `mailq` or `newaliases` it behaves as these. `smtp-spool COMMAND --help` tells more.
"""
SENDMAIL_HELP = """\
usage: smtp-spool sendmail [-t] [-i] [-f FROM] [-F NAME] [-bs] [RCPT...]

Reads one message from standard input and queues it. Exit status 0 means that it is on disk.

  RCPT       an address; a bare name is looked up in [aliases], else it is NAME@DOMAIN
  -t         take recipients from To, Cc and Bcc too; Bcc is removed
  -i         a line with a single dot does not end the message (also -oi)
  -f FROM    the sender of the envelope ('' or '<>': none); default: USER@DOMAIN (also -r)
  -F NAME    the name in From, when the message has no From
  -bs        speak SMTP on standard input and output; takes no RCPT
  -bp        list the queue instead (also mailq)
  -q[TIME]   alone: try everything that waits now (-qf and -qR... too)
  -bi, -I    nothing to do: aliases are read from the config each time (also newaliases)

Known and without effect: -A -B -C -D -G -L -M -N -O -R -U -V -X -bm -c -d -e -h -m -n -o -p -v -x, -q with a
recipient or -t.
Added when missing: From, Message-ID, Date. Removed: Bcc, Resent-Bcc, Return-Path, Content-Length.

Exit status: 0 queued, 64 wrong usage, 65 wrong message or address, or with -bs input that ended inside a mail,
74 or 75 not taken, try again, 77 not allowed, 78 mistake in the config.
"""
ADD_HELP = """\
usage: smtp-spool add

Reads JSON objects, one a line, from standard input, queues each as a mail, and answers each with a line:
{"id": 17} when it is on disk, or {"error": "what is wrong"}.

  to          an address or a list of them (needed); commas part several in one text, as in a To field
  from        the sender; default USER@DOMAIN
  message     the whole message as text; or message_base64
  template    a template's name, with data, a JSON object
  subject     with text, html or both: the message is made of them
  priority    0 (first) to 9 (last), or a name of [spool] priorities
  send_at     not before: Unix seconds, "2026-11-22T10:00:00Z", or a span such as "5m"
  expires     not after; default: [spool] max_age
  identifier  the same one is queued once; the answer has the id of that mail

Exit status: 0 all queued, 65 some lines refused, 74 or 75 not taken, try again, 77 not allowed, 78 mistake in the config.
"""
SEND_HELP = """\
usage: smtp-spool send TEMPLATE --to ADDRESS... [--data JSON] [--from ADDRESS] [--priority P] [--send-at T]
                       [--expires T] [--identifier I]

Queues a mail made from a template and writes its number. --data - reads the JSON from standard input.
Templates lie in the folder [spool] templates, one folder each: subject.txt, body.html, and if you like body.txt and
images. Two come with it: confirm-address and recover-password.
"""
PREVIEW_HELP = """\
usage: smtp-spool preview TEMPLATE [--data JSON] [--html | --raw]

Writes subject and text that a template makes; --html: its page, for a browser; --raw: the whole message.
"""
RUN_HELP = """\
usage: smtp-spool run [--drain]

Sends what is queued, through the relays or into the Maildir, and waits for more. Several senders share the work of
a spool; limits of a relay hold for each of them.
SIGTERM: what is in hand is finished within seconds, then it ends with status 0. A changed config is read by itself.

  --drain    end when nothing is due: status 0, or 75 when a relay is in trouble

Exit status: 0 ended as asked, 64 wrong usage, 74 or 75 try again, 77 not allowed, 78 mistake in the config.
"""
LIST_HELP = """\
usage: smtp-spool list [--all] [--json]

A line for each recipient that was not sent to: mail, age, state, attempts, next try, address, last answer.

  --all      those sent to as well
  --json     {"version": 1, "recipients": [{"mail_id", "sender", "address", "state", "attempts", "unknowns", "due_at",
             "answer", "message_id", "size_bytes", "created_at", "id", "lane", "priority", "expires_at"}]};
             times are Unix seconds

States: queued, sending, sent, deferred (tried again at its time), held (by hand), failed, expired, cancelled,
unknown (cut off behind the final dot: the relay may have it).
"""
SHOW_HELP = """\
usage: smtp-spool show ID [--json]

One mail: its envelope, what became of each recipient, and the header of its message.
"""
WHY_HELP = """\
usage: smtp-spool why ID [--json]

What each recipient of a mail waits for, and until when.

  --json     {"version": 1, "recipients": [{"address", "state", "reason", "until"}]}; until: Unix seconds or null
"""
STATS_HELP = """\
usage: smtp-spool stats [--json]

The books: accepted = sent + failed + expired + cancelled + what is still open; beside them how often a mail was cut off
behind the final dot (unknown), each of which may have made a duplicate.

  --json     {"version": 1, "accepted", "recipients": {STATE: number}, "open", "unknown_events", "sent_last_hour",
             "oldest_s", "lanes": {LANE: {"waiting", "due", "problem", "until"}}, "senders": [pid]}
"""
COUNT_HELP = """\
usage: smtp-spool count

Writes the number of recipients still to be sent to: queued, sending, deferred or unknown.
"""
CHOICE = """\
  ID...           mails by number, as list shows them
  --state STATE   only recipients in this state (may come more than once)
  --to ADDRESS    only this recipient (may come more than once)
  --all           all that the command can reach
"""
RETRY_HELP = f"""\
usage: smtp-spool retry ID... | --state STATE | --to ADDRESS | --all

Makes recipients due at once, as if they were fresh: deferred, unknown, failed and expired ones.

{CHOICE}"""
HOLD_HELP = f"""\
usage: smtp-spool hold ID... | --state STATE | --to ADDRESS | --all

Holds back what waits, until release or cancel.

{CHOICE}"""
RELEASE_HELP = f"""\
usage: smtp-spool release ID... | --state STATE | --to ADDRESS | --all

Lets go what is held, and what is unknown.

{CHOICE}"""
CANCEL_HELP = f"""\
usage: smtp-spool cancel ID... | --state STATE | --to ADDRESS | --all

Ends what waits or is held, for good. What is being sent just now is not reached.

{CHOICE}"""
DELETE_HELP = f"""\
usage: smtp-spool delete ID... | --state STATE | --to ADDRESS | --all

Takes whole mails away, in whatever state, but none that is being sent just now. The books keep the numbers.

{CHOICE}"""
CHECK_HELP = """\
usage: smtp-spool check

Tells which files are in force, then connects to each relay and logs in. Sends nothing.

Exit status: 0 all answer, 75 one does not, 78 mistake in the config.
"""
PRUNE_HELP = """\
usage: smtp-spool prune

Takes away mails that are sent, failed, expired or cancelled for longer than [spool] keep_sent. The sender does the same
each hour.
"""
UPDATE_SCHEMA_HELP = """\
usage: smtp-spool update-schema

Brings the database to the schema of this version. On SQLite each command does so by itself.
"""
