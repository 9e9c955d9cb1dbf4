"""The engine, the judge, the ledger, the checks and the verdict: what `audit` runs."""
