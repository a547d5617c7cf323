//! What `cubecl-cuda` names of the NVIDIA target.

/// The PTX version a driver loads.
pub mod ptx_version {
    use core::convert::Infallible;
    use core::fmt;

    /// A PTX version. Only the LLVM path reads one, so none is ever made.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct PtxVersion(Infallible);

    impl PtxVersion {
        /// `None`, for any driver version: NVRTC chooses the PTX version itself.
        pub fn for_driver(_driver: i32) -> Option<Self> {
            None
        }
    }

    impl fmt::Display for PtxVersion {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.0 {}
        }
    }
}
