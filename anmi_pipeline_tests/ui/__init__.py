"""The UI in a real browser: servers, pages, clicks."""
