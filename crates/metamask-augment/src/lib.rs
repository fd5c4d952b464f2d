//! Images -> two augmented views.
