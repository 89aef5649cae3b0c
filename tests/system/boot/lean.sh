#!/bin/sh
# Run in the new system of the boot matrix, at the end of its build: units and generators are left out that have nothing
# to do with how a disk is divided and booted. Starting one costs an emulated guest up to half a second.
set -eu

# /dev, /proc and /sys as few programs need them.
units='dev-hugepages.mount dev-mqueue.mount kmod-static-nodes.service systemd-tmpfiles-setup-dev.service
    sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
    proc-sys-fs-binfmt_misc.automount systemd-sysctl.service'
# Modules for units that the system does not have.
units="$units modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service
    modprobe@fuse.service modprobe@loop.service systemd-modules-load.service"
# What is kept from one boot to the next, or done now and then.
units="$units systemd-journal-flush.service systemd-pstore.service systemd-random-seed.service
    systemd-update-utmp.service systemd-update-utmp-runlevel.service apt-daily.timer apt-daily-upgrade.timer
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer"
# Users, but for root none, and nothing adds any; a NIC, of which there is none; a screen, likewise.
units="$units systemd-sysusers.service systemd-user-sessions.service systemd-network-generator.service
    getty-static.service getty@tty1.service"
for unit in $units; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done

mkdir /etc/systemd/system-generators
for name in cryptsetup debug hibernate-resume integritysetup rc-local run system-update sysv veritysetup; do
    ln -s /dev/null "/etc/systemd/system-generators/systemd-$name-generator"
done
