#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run a program as if the machine were the instance's own:  client_box.sh FOLDER COMMAND...
#
# To be started in the instance's network namespace by "unshare --mount --uts --pid --fork
# --kill-child --propagation private".  Whatever is written, to /etc or anywhere else, goes
# to memory and away with the command; only FOLDER, which it sees as /tmp/box, is kept.
set -eu

folder=$1
shift
mount -t tmpfs -o mode=755 client-box /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work client-root /mnt/root
cd /mnt/root
mount -t proc proc proc
mount --rbind /dev dev
# Read only: systemd-networkd then waits for no udev.
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p tmp/box run/systemd/netif
chown systemd-network: run/systemd/netif 2>/dev/null || true
mount --bind "$folder" tmp/box
rm -f etc/resolv.conf
: > etc/resolv.conf
hostname unnamed
exec chroot . "$@"
