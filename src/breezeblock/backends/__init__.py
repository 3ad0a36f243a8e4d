"""Back ends: the storage that volumes live on, behind one contract."""
