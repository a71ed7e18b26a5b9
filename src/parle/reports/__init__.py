"""What people see: progress, tables, pages of explanation."""
