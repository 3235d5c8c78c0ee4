"""A page to look at what a cycle has: static, with relative links, from disk or from a bucket."""
