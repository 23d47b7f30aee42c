//! Special registers.

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the PTX register of its name; the number is the axis
pub enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    ClusterId(usize),
    NClusterId(usize),
    ClusterCtaid(usize),
    ClusterNctaid(usize),
    ClusterCtaRank,
    ClusterNctaRank,
    IsExplicitCluster,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    Clock,
    ClockHi,
    Clock64,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
    DynamicSmemSize,
    TotalSmemSize,
    AggrSmemSize,
}

impl Special {
    /// The register of a name with its component: `%tid.x`.
    pub fn parse(name: &str) -> Option<Self> {
        use Special::*;
        let (stem, axis) = match name.rsplit_once('.') {
            Some((stem, "x")) => (stem, 0),
            Some((stem, "y")) => (stem, 1),
            Some((stem, "z")) => (stem, 2),
            Some(_) => return None,
            None => (name, usize::MAX),
        };
        Some(if axis == usize::MAX {
            match stem {
                "%laneid" => LaneId,
                "%warpid" => WarpId,
                "%nwarpid" => NWarpId,
                "%smid" => SmId,
                "%nsmid" => NSmId,
                "%gridid" => GridId,
                "%cluster_ctarank" => ClusterCtaRank,
                "%cluster_nctarank" => ClusterNctaRank,
                "%is_explicit_cluster" => IsExplicitCluster,
                "%lanemask_eq" => LaneMaskEq,
                "%lanemask_le" => LaneMaskLe,
                "%lanemask_lt" => LaneMaskLt,
                "%lanemask_ge" => LaneMaskGe,
                "%lanemask_gt" => LaneMaskGt,
                "%clock" => Clock,
                "%clock_hi" => ClockHi,
                "%clock64" => Clock64,
                "%globaltimer" => GlobalTimer,
                "%globaltimer_lo" => GlobalTimerLo,
                "%globaltimer_hi" => GlobalTimerHi,
                "%dynamic_smem_size" => DynamicSmemSize,
                "%total_smem_size" => TotalSmemSize,
                "%aggr_smem_size" => AggrSmemSize,
                _ => return None,
            }
        } else {
            match stem {
                "%tid" => Tid(axis),
                "%ntid" => Ntid(axis),
                "%ctaid" => Ctaid(axis),
                "%nctaid" => Nctaid(axis),
                "%clusterid" => ClusterId(axis),
                "%nclusterid" => NClusterId(axis),
                "%cluster_ctaid" => ClusterCtaid(axis),
                "%cluster_nctaid" => ClusterNctaid(axis),
                _ => return None,
            }
        })
    }
}
