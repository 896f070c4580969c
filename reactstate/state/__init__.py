"""In the process, pure and synchronous: states, documents, drafts, changes, history, subscriptions."""
