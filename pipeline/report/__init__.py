"""Values to HTML; no IO."""
