//! Opening and making device nodes: terminals, randomness, `null` and its like, and what policy
//! names. A device may well lead out: `/dev/net/tun`, a serial line, the log of the kernel.

use aya_ebpf::programs::DeviceContext;
use gateway_common::{
    decide,
    event::Hook,
    verdict::{Verdict, errno},
};

use crate::{
    ctx::{self, PASS},
    emit::{self, Facts},
    maps,
};

/// Decides about a device, whatever is to be done with it.
#[inline(always)]
pub(crate) fn open(ctx: &DeviceContext) -> i32 {
    let config = maps::agent();
    let device = ctx::device(ctx);
    match decide::device(&config, &device, maps::has_device(&config, &device)) {
        Verdict::Pass(_) | Verdict::Redirect(_) => PASS,
        Verdict::Refuse(reason) => {
            let facts = Facts {
                // Where other refusals have an address, those of a device have its numbers.
                destination: device.as_endpoint(),
                ..Facts::of(ctx::current_task())
            };
            emit::refusal(ctx, &config, Hook::Device, reason, &facts);
            if config.observes() {
                PASS
            } else {
                ctx::refuse_with(errno(reason))
            }
        }
    }
}
