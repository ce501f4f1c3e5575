"""Web pages: the report of one run, and the site of the history. They load nothing from elsewhere."""
