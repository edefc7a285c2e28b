//! What an identity may do: rules to a permit. Pure.
