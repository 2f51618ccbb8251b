"""Every query, one file for each subject. Changes of state are conditional writes."""
