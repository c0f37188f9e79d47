# In a guest with two models: Linux's own ixgbe probes, links, carries traffic, lets go and takes hold again.
set -eux

complaints() { dmesg -r | grep -E '^<[0-4]>' || true; }
interfaces() { for path in /sys/bus/pci/drivers/ixgbe/*:*/net/*; do echo "${path##*/}"; done; }
until_true() { for _ in $(seq 300); do ! "$@" >/dev/null 2>&1 || return 0; sleep 0.1; done; return 1; }
linked() { [ "$(cat "/sys/class/net/$1/carrier")" = 1 ]; }
here() { [ "$(interfaces | grep -c eth)" = 2 ]; }
far() { ip netns exec far "$@"; }

modprobe ixgbe
until_true here
modprobe -r ixgbe
# From here on nothing may be said at the level of a warning.
dmesg -c >/dev/null
modprobe ixgbe
until_true here
interfaces | tr '\n' ' '
set -- $(interfaces)
near=$1 other=$2
ip netns add far
ip link set "$other" netns far
ip address add 10.0.0.1/24 dev "$near"
ip link set "$near" up
far ip address add 10.0.0.2/24 dev "$other"
far ip link set "$other" up
until_true linked "$near"
[ "$(cat "/sys/class/net/$near/speed")" = 10000 ]
until_true ping -c 1 -W 1 10.0.0.2
ping -c 10 -i 0.2 10.0.0.2 | grep ' 0% packet loss'

cd "$(mktemp -d)"
dd if=/dev/urandom of=sent bs=1M count=32 2>/dev/null
sent=$(sha256sum <sent)
# nc ends when its input does: the listeners' stays open.
sleep 1000 | far nc -l -p 5000 >received &
sleep 1
nc -w 60 10.0.0.2 5000 <sent
until_true test "$(stat -c %s received)" = "$(stat -c %s sent)"
[ "$(sha256sum <received)" = "$sent" ]
sleep 1000 | nc -l -p 5001 >received &
sleep 1
far nc -w 60 10.0.0.1 5001 <sent
until_true test "$(stat -c %s received)" = "$(stat -c %s sent)"
[ "$(sha256sum <received)" = "$sent" ]

ip link set "$near" down
ip link set "$near" up
until_true linked "$near"
until_true ping -c 1 -W 1 10.0.0.2
ip netns delete far
until_true here
modprobe -r ixgbe
modprobe ixgbe
until_true here
set -- $(interfaces)
ip link set "$1" up
until_true linked "$1"
ip link set "$1" down

said=$(complaints)
[ -z "$said" ] || { echo "$said" >&2; exit 1; }
