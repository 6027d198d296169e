"""MAY they draw? Activities, their campaign files and revisions, accounts, quota orders and skus."""
