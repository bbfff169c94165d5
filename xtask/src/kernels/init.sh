#!/bin/sh
# Goes on as the first process of a virtual machine: lays out what an init system would, and does the job.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
exec < /dev/null > /dev/ttyS0 2>&1
stty -F /dev/ttyS0 -opost
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/lock /run/netns /lib/modules
until mount -o ro LABEL=modules /lib/modules; do sleep 0.1; done
# A device that comes with its driver, and bridges as container runtimes have them: their packets pass iptables.
modprobe -aq tun br_netfilter
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
hostname guest
# As many open files as service managers allow.
ulimit -Hn 524288
ip link set lo up
# The host waits for this line.
echo "truepeer-guest: begins"
cd /job && sh /job/run
echo "truepeer-guest: ended $?"
# The host ends the machine when it has read that.
sleep 60
echo b > /proc/sysrq-trigger
sleep 60
