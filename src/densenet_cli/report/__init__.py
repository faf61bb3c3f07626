"""HTML reports: self-contained pages of predictions (``predictions``) and evaluations (``evaluation``)."""
