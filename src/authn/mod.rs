//! Who is asking: credentials to an identity.
