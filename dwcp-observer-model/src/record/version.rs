//! The version of DWCP that moves a guest.

crate::named! {
    /// By the rule `[v1]` of the configuration.
    pub enum Version {
        /// The rule matches.
        V1 = "v1",
        /// It does not.
        V3 = "v3",
    }
}
