"""What `ankle_lib.pipeline` stands on: a chapter's place, its kernel, its record, the lock."""
