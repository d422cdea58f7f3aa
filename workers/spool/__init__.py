"""smtp-spool: accepts mail durably and sends it through a relay."""
