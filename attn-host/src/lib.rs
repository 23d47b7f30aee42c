//! Launch side of the attention kernels.
