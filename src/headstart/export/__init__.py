"""The trained backbone as files that load without Headstart, and predictions from them."""
