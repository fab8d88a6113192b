"""The page in the browser: its server, the conversations of its visitors, their voices."""
