"""What the mail workers share: mail.toml, secrets, addresses."""
