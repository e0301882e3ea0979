"""The page and its models as plain files: `wisp export` writes them to a directory, `wisp publish` sends them off."""
