"""imap-sync: a faithful, complete, one-way copy of IMAP accounts in Maildirs, always up to date."""
