//! Optimisers, schedules, the dimension mask and its hypergradient.
