//! Enums whose values have a name or a number of their own on both sides.

/// Counted from zero; each value has a label for metrics.
macro_rules! labelled {
    ($(#[$about:meta])* $type:ident: $($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $type { $($(#[$doc])* $name,)* }

        impl $type {
            /// All values, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

/// Each value has the number by which it travels.
macro_rules! numbered {
    ($(#[$about:meta])* $type:ident: $($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $type { $($(#[$doc])* $name = $number,)* }

        impl $type {
            /// The value of a number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

pub(crate) use {labelled, numbered};
