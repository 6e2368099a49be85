"""What several pages show: the lens, the job panel, the common look."""
