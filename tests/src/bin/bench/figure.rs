//! What is computed from a measurement.

use crate::load::Sample;
use crate::work::Work;

/// A number for each measurement of one kind of work.
pub(crate) struct Figure {
    /// Its name in JSON.
    pub(crate) key: &'static str,
    /// Its name for people.
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    pub(crate) of: fn(&Sample) -> f64,
    /// Digits after the decimal point, for people.
    pub(crate) digits: usize,
    pub(crate) compared: Compared,
}

/// How one variant's figure is told by another's.
#[derive(Clone, Copy)]
pub(crate) enum Compared {
    /// As their ratio.
    Ratio,
    /// As what it has more.
    Difference,
}

impl Figure {
    pub(crate) fn compare(&self, value: f64, to: f64) -> f64 {
        match self.compared {
            Compared::Ratio => value / to,
            Compared::Difference => value - to,
        }
    }

    /// Digits after the decimal point of a comparison, for people.
    pub(crate) fn compared_digits(&self) -> usize {
        match self.compared {
            Compared::Ratio => 2,
            Compared::Difference => self.digits,
        }
    }
}

const IDLE: Figure = Figure {
    key: "idle_process_bytes_per_connection",
    name: "bytes of the processes per idle connection",
    work: Work::Idle,
    of: |sample| sample.idle.processes,
    digits: 0,
    compared: Compared::Difference,
};

const CONNECTIONS: Figure = Figure {
    key: "connections_per_second",
    name: "connections per second",
    work: Work::Connections,
    of: Sample::rate,
    digits: 0,
    compared: Compared::Ratio,
};

pub(crate) const CONNECTIONS_PER_CPU_SECOND: Figure = Figure {
    key: "connections_per_cpu_second",
    name: "connections per CPU second",
    of: Sample::per_machine_second,
    ..CONNECTIONS
};

pub(crate) const GETPEERNAME: Figure = Figure {
    key: "process_cpu_nanoseconds_per_getpeername",
    name: "CPU ns of the processes per call",
    work: Work::Getpeername,
    of: |sample| 1e9 / sample.per_process_second(),
    digits: 0,
    compared: Compared::Difference,
};

pub(crate) const UPLOAD: Figure = Figure {
    key: "upload_gigabytes_per_second",
    name: "GB up per second",
    work: Work::Upload,
    of: |sample| sample.rate() / 1e9,
    digits: 2,
    compared: Compared::Ratio,
};

pub(crate) const DOWNLOAD: Figure = Figure {
    key: "download_gigabytes_per_second",
    name: "GB down per second",
    work: Work::Download,
    ..UPLOAD
};

/// All, in the order of the report.
static FIGURES: [Figure; 16] = [
    IDLE,
    Figure {
        key: "idle_kernel_bytes_per_connection",
        name: "kernel bytes per idle connection",
        of: |sample| sample.idle.kernel,
        ..IDLE
    },
    CONNECTIONS,
    CONNECTIONS_PER_CPU_SECOND,
    Figure {
        key: "process_cpu_microseconds_per_connection",
        name: "CPU us of the processes per connection",
        of: |sample| 1e6 / sample.per_process_second(),
        digits: 1,
        ..CONNECTIONS
    },
    UPLOAD,
    Figure {
        key: "upload_gigabytes_per_cpu_second",
        name: "GB up per CPU second",
        of: |sample| sample.per_machine_second() / 1e9,
        ..UPLOAD
    },
    Figure {
        key: "upload_gigabytes_per_process_cpu_second",
        name: "GB up per CPU second of the processes",
        of: |sample| sample.per_process_second() / 1e9,
        ..UPLOAD
    },
    DOWNLOAD,
    Figure {
        key: "download_gigabytes_per_cpu_second",
        name: "GB down per CPU second",
        of: |sample| sample.per_machine_second() / 1e9,
        ..DOWNLOAD
    },
    Figure {
        key: "download_gigabytes_per_process_cpu_second",
        name: "GB down per CPU second of the processes",
        of: |sample| sample.per_process_second() / 1e9,
        ..DOWNLOAD
    },
    Figure {
        key: "crowd_gigabytes_per_second",
        name: "GB up per second, by 100",
        work: Work::Crowd,
        ..UPLOAD
    },
    Figure {
        key: "crowd_gigabytes_per_cpu_second",
        name: "GB up per CPU second, by 100",
        work: Work::Crowd,
        of: |sample| sample.per_machine_second() / 1e9,
        ..UPLOAD
    },
    Figure {
        key: "p99_microseconds",
        name: "99th percentile of us to the answer, 2000 a second",
        work: Work::Paced,
        of: |sample| sample.p99.as_secs_f64() * 1e6,
        digits: 0,
        ..CONNECTIONS
    },
    GETPEERNAME,
    Figure {
        key: "program_nanoseconds_per_syn",
        name: "ns of truepeer's program per SYN",
        work: Work::Syns,
        of: |sample| sample.syn.as_nanos() as f64,
        ..GETPEERNAME
    },
];

/// The figures of this work.
pub(crate) fn of_work(work: Work) -> impl Iterator<Item = &'static Figure> {
    FIGURES.iter().filter(move |figure| figure.work == work)
}
