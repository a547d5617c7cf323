//! What `cubecl-cuda` names of the part shared by the targets.

/// The features of a device that the LLVM path can use.
pub mod lowered_features {
    use cubecl_core::ir::DeviceProperties;

    /// The targets features are narrowed for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum GpuTarget {
        /// NVIDIA's PTX.
        Nvptx,
    }

    /// Takes nothing away: called only when the LLVM path is the default, where every kernel is refused anyway.
    pub fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
}
