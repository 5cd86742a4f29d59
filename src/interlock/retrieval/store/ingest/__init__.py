"""What changes the index: sources, folders, access lists, documents, waiting work. Answers no search."""
