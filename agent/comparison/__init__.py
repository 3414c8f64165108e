"""Methods side by side on the same data: `plan` says what is trained, `runs` trains it, `results` sums it up."""
