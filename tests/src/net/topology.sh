# outside - router - host - guest, given as namespaces.
outside=$1 router=$2 host=$3 guest=$4
for name in "$outside" "$router" "$host" "$guest"; do
    ip netns exec "$name" sh -c 'for key in all default; do echo 0 > /proc/sys/net/ipv6/conf/$key/accept_dad; done'
done
ip link add eth0 netns "$host" type veth peer name in0 netns "$router"
ip link add out0 netns "$router" type veth peer name eth0 netns "$outside"
ip -n "$host" link add guests type bridge
ip link add port1 netns "$host" type veth peer name eth0 netns "$guest"
ip -n "$host" link set port1 master guests

address() { ip -n "$1" address add "$3" dev "$2"; ip -n "$1" address add "$4" dev "$2" nodad; ip -n "$1" link set "$2" up; }
address "$host" eth0 203.0.113.10/24 2001:db8:1::10/64
address "$router" in0 203.0.113.1/24 2001:db8:1::1/64
address "$router" out0 198.51.100.1/24 2001:db8:2::1/64
address "$outside" eth0 198.51.100.20/24 2001:db8:2::20/64
# Never chosen for an answer, only where a program asks for it.
ip -n "$outside" address add 198.51.100.99/24 dev eth0
ip -n "$outside" address add 2001:db8:2::99/64 dev eth0 nodad preferred_lft 0
address "$host" guests 172.31.0.1/24 fd31::1/64
address "$guest" eth0 172.31.0.2/24 fd31::2/64
ip -n "$host" link set port1 up
# One side alone: the handshake offers 1460 bytes to a segment, and only an error tells of the narrow hop.
ip -n "$router" link set out0 mtu 1300

default() { ip -n "$1" route add default via "$2"; ip -n "$1" -6 route add default via "$3"; }
default "$host" 203.0.113.1 2001:db8:1::1
default "$outside" 198.51.100.1 2001:db8:2::1
default "$guest" 172.31.0.1 fd31::1
# A neighbour that knows the way to the guests.
ip -n "$router" route add 172.31.0.0/24 via 203.0.113.10
ip -n "$router" -6 route add fd31::/64 via 2001:db8:1::10
