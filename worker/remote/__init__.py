"""The coordinator as seen from a site: REST calls, retries, downloaded weights."""
