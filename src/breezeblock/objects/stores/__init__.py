"""Object stores: one narrow interface (`port`), and one file for each protocol that fulfils it."""
