"""The --help texts of imap-sync."""

from __future__ import annotations

HELP = """\
usage: imap-sync [--config FILE] COMMAND

Keeps a complete, always current copy of IMAP accounts in Maildirs. The servers are only read.

  run                        for ever: push where the server offers it, timers as the safety net
  sync [ACCOUNT...]          one pass; beside a running worker that one makes it
  status [--json]            accounts: how they stand, since when, what is wrong
  folders ACCOUNT [--json]   an account's folders, and where they lie on disk
  why ACCOUNT                what an account waits for and until when, in words
  verify [ACCOUNT...] [--content]
                             proves that the copies are complete
  check                      the config, then a login for each account
  present ACCOUNT [--for 15m]
                             its user is here: the short intervals hold
  log-level debug|info [ACCOUNT...] [--for 15m]
                             what is said on the connections, in the log of the running worker

The config is the first of: --config FILE, $MAIL_CONFIG, ~/.config/semguard/mail.toml, /etc/semguard/mail.toml; in it
[imap] and an [[imap.accounts]] for each account. Relative paths in it start at its own folder.
`imap-sync COMMAND --help` tells more.
"""
RUN_HELP = """\
usage: imap-sync run

Copies all accounts of mail.toml and keeps the copies current. Without accounts it waits for one in mail.toml; a changed
mail.toml is taken when it is whole and valid. SIGTERM: it ends within seconds, with status 0. SIGQUIT: where each thread
is, on standard error.

Exit status: 0 ended as asked, 64 wrong usage, 74 or 75 try again (75 also: another worker runs), 77 not allowed,
78 mistake in the config.
"""
SYNC_HELP = """\
usage: imap-sync sync [ACCOUNT...]

One pass of these accounts, or of all that are enabled: new messages, flags, what is gone, folders. Without a worker, a
line for each folder that was opened. Beside a running worker that one makes the pass and logs it; this command waits for
it. Standard error names each account that is not in step. Without any account that is enabled there is nothing to do: it
says what to add to mail.toml, and ends with 0.

Exit status: 0 all in step; 75 some could not be reached, or the disk is full: try again; 1 something needs a person: a
wrong password, a bad certificate, a message that the server can't give, a letter in the outbox that can't be sent; 64 wrong
usage, 74 disk or state database can't be used, 77 not allowed, 78 mistake in the config.
"""
STATUS_HELP = """\
usage: imap-sync status [--json]

A line for each account of mail.toml: how it stands, how news of it come, what is here, and what is wrong until when.

  --json     {"version": 1, "running", "accounts": [{"name", "id", "enabled",
             "mode": "notify" | "idle" | "poll" | "none",
             "state": "in step" | "syncing" | "waiting" | "paused" | "disabled",
             "folders", "messages", "synced_at", "problem", "until", "demoted": [EXTENSION],
             "poison": [{"folder", "uid", "why", "tries", "since", "next_try"}]}]}
             Times are Unix seconds, or null; until is null when no worker is there to try again. running: whether one
             is at work. demoted: what the server offers and contradicts itself with. poison: messages that the server
             can't give.

Exit status: 0; 64 wrong usage, 74 or 75 the state database can't be read, 77 not allowed, 78 mistake in the config,
or root is no folder.
"""
FOLDERS_HELP = """\
usage: imap-sync folders ACCOUNT [--json]

The account's folders: messages, last sync, messages that the server can't give (poison), and where they lie on disk, each
as a Maildir.

  --json     {"version": 1, "account", "id", "folders": [{"id", "name", "path", "messages", "on_server", "synced_at",
             "poison": [{"uid", "why", "tries", "since", "next_try"}]}]}; times as in status --json. id: the numbers in
             the log.

Exit status: 0; 64 wrong usage or no such account, and else as status.
"""
WHY_HELP = """\
usage: imap-sync why ACCOUNT

What the account waits for and until when, what to do about it, which messages the server can't give, whether its user is
here, and whether what is said on its connections is logged.

Exit status: 0; 64 wrong usage or no such account, and else as status.
"""
VERIFY_HELP = """\
usage: imap-sync verify [ACCOUNT...] [--content]

Proves that the copies of these accounts, or of all that are enabled, are complete: a line for each folder. The messages
on the server, by UIDVALIDITY and UID, have to be the files on disk, each of the size and with the flags that its name
tells; all flags and keywords have to be in the state database; there may be no other files and no other folders.
It only reads, also beside a running worker. What differs is looked at again, behind a pass of the worker when one runs,
and counts when it is still there; a message that differs in several ways counts once.

  --content  also compare what is in each file with the digest of what the server sent; where none is known, the message
             is asked for again

Exit status: 0 complete, 1 not complete, 75 nothing differs but some could not be reached or logged in to; 64 wrong usage,
74 disk or state database can't be read, 77 not allowed, 78 mistake in the config.
"""
CHECK_HELP = """\
usage: imap-sync check

Tells which files are in force and whether the log can be written, then logs in to each account that is enabled and tells
what its server offers, or what to do. Copies nothing.

Exit status: 0 all answer; 75 one can't be reached: try again; 1 one needs a person: a wrong password, a bad certificate,
an outbox that is not there; 64 wrong usage, 77 not allowed, 78 mistake in the config.
"""
PRESENT_HELP = """\
usage: imap-sync present ACCOUNT [--for 15m]

The account's user is here: for that long the short intervals of [imap] recent and full hold, and it is looked at at once.

Exit status: 0; 64 wrong usage or no such account, 74 or 75 not written, try again, 77 not allowed, 78 mistake in the config.
"""
LOG_LEVEL_HELP = """\
usage: imap-sync log-level debug|info [ACCOUNT...] [--for 15m]

debug: for that long the running worker logs what is said on the connections of these accounts, or of all; secrets and
what is in messages are left out. info: no more. What mail.toml says with log_level = "debug" stays.

Exit status: 0; 64 wrong usage or no such account, 74 or 75 not written, try again, 77 not allowed, 78 mistake in the config.
"""
