"""One page of HTML about a sweep or some runs."""
