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
  verify [ACCOUNT...]        proves that the copies are complete
  check                      the config, then a login for each account
  present ACCOUNT [--for 15m]
                             its user is here: the short intervals hold
  log-level debug|info [ACCOUNT...] [--for 15m]
                             what is said on the connections, in the log of the running worker

The config is the first of: --config FILE, $MAIL_CONFIG, ~/.config/semguard/mail.toml, /etc/semguard/mail.toml; in it
[imap] and an [[imap.accounts]] for each account. `imap-sync COMMAND --help` tells more.
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

One pass of these accounts, or of all that are enabled: new messages, flags, what is gone, folders. A line for each folder
that was opened. Beside a running worker, that one makes the pass, and this command waits for it.

Exit status: 0 all in step; 75 some could not be reached, or the disk is full: try again; 1 something needs a person: a
wrong password, a bad certificate, a message that the server can't give; 64 wrong usage, 78 mistake in the config.
"""
