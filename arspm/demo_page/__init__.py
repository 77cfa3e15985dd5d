"""A page on this machine: record or drop speech, and see the portrait beside the prior and the mean faces."""
