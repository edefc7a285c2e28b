//! The pipeline of a request, and one file per resource.
