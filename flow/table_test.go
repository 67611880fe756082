package flow

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func testKey(i int) Key {
	return NewKey(6, netip.AddrPortFrom(netip.MustParseAddr("10.0.2.15"), uint16(i)),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 24), byte(i >> 16)}), 443))
}

func TestKey(t *testing.T) {
	if got, want := reflect.TypeFor[Key]().Size(), uintptr(38); got != want {
		t.Errorf("a Key has %d bytes, want %d: padding would be hashed", got, want)
	}
	v4 := NewKey(17, netip.MustParseAddrPort("10.0.2.15:1"), netip.MustParseAddrPort("192.0.2.1:53"))
	mapped := NewKey(17, netip.MustParseAddrPort("[::ffff:10.0.2.15]:1"), netip.MustParseAddrPort("[::ffff:192.0.2.1]:53"))
	if v4 == mapped {
		t.Error("an IPv4 flow has the key of an IPv6 flow between mapped addresses")
	}
	for _, k := range []Key{v4, mapped, NewKey(6, netip.MustParseAddrPort("[fe80::1]:80"), netip.MustParseAddrPort("[2001:db8::1]:65535"))} {
		if back := NewKey(k.Proto, k.GuestAddrPort(), k.PeerAddrPort()); back != k {
			t.Errorf("%v became %v on the way through its addresses", k, back)
		}
	}
	if got := v4.PeerAddrPort().String(); got != "192.0.2.1:53" {
		t.Errorf("peer is %s", got)
	}
}

// checkTable compares everything that can be asked of a table with a map.
func checkTable(t interface{ Fatalf(string, ...any) }, tab *Table, want map[Key]int32, keys []Key) {
	if tab.Len() != len(want) {
		t.Fatalf("%d entries, want %d", tab.Len(), len(want))
	}
	if len(tab.tags) > minSlots && tab.n < len(tab.tags)/8 || tab.n > maxLoad(len(tab.tags)) {
		t.Fatalf("%d entries in %d slots", tab.n, len(tab.tags))
	}
	for _, k := range keys {
		got, ok := tab.Get(&k)
		if w, there := want[k]; ok != there || got != w {
			t.Fatalf("Get(%v) = %d, %v; want %d, %v", k, got, ok, w, there)
		}
	}
}

func TestTableAgainstMap(t *testing.T) {
	const limit = 300
	keys := make([]Key, 2*limit)
	for i := range keys {
		keys[i] = testKey(i)
	}
	rapid.Check(t, func(t *rapid.T) {
		tab, want := NewTable(limit), map[Key]int32{}
		any := rapid.SampledFrom(keys)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				k, v := any.Draw(t, "key"), rapid.Int32().Draw(t, "value")
				_, old := want[k]
				if ok := tab.Put(k, v); ok != (old || len(want) < limit) {
					t.Fatalf("Put = %v with %d entries, key present: %v", ok, len(want), old)
				} else if ok {
					want[k] = v
				}
			},
			"fill": func(t *rapid.T) {
				for i := range rapid.IntRange(0, len(keys)).Draw(t, "n") {
					if tab.Put(keys[i], int32(i)) {
						want[keys[i]] = int32(i)
					}
				}
			},
			"clear": func(t *rapid.T) {
				for i := range rapid.IntRange(0, len(keys)).Draw(t, "n") {
					delete(want, keys[i])
					tab.Delete(&keys[i])
				}
			},
			"delete": func(t *rapid.T) {
				k := any.Draw(t, "key")
				_, old := want[k]
				if ok := tab.Delete(&k); ok != old {
					t.Fatalf("Delete = %v, key present: %v", ok, old)
				}
				delete(want, k)
			},
			"": func(t *rapid.T) { checkTable(t, tab, want, keys) },
		})
	})
}

// Deletion must keep every cluster whole also where it wraps around the end of the table, and among keys of one home.
func TestTableClusters(t *testing.T) {
	tab := NewTable(100)
	var keys []Key
	for i := 0; len(keys) < 40; i++ {
		if k := testKey(i); tab.tag(&k)&tab.mask >= tab.mask-2 {
			keys = append(keys, k)
		}
	}
	for del := range keys {
		want := map[Key]int32{}
		for i, k := range keys {
			tab.Put(k, int32(i))
			want[k] = int32(i)
		}
		for _, i := range []int{del, (del + 7) % len(keys), (del + 20) % len(keys)} {
			tab.Delete(&keys[i])
			delete(want, keys[i])
			checkTable(t, tab, want, keys)
		}
	}
}

func TestTableShrinks(t *testing.T) {
	tab := NewTable(100000)
	for i := range 100000 {
		tab.Put(testKey(i), 0)
	}
	for i := range 100000 {
		k := testKey(i)
		tab.Delete(&k)
	}
	if len(tab.tags) != minSlots {
		t.Errorf("%d slots are left of an empty table, want %d", len(tab.tags), minSlots)
	}
}

func TestTableLimit(t *testing.T) {
	tab := NewTable(0)
	if tab.Put(testKey(1), 1) {
		t.Error("a table of no entries took one")
	}
	if tab = NewTable(1 << 40); tab.limit != maxLoad(occupied) {
		t.Errorf("limit is %d, which the tags cannot address", tab.limit)
	}
}

func TestTableNoAllocations(t *testing.T) {
	tab := NewTable(1000)
	for i := range 900 {
		tab.Put(testKey(i), int32(i))
	}
	k := testKey(5)
	if n := testing.AllocsPerRun(1000, func() {
		v, _ := tab.Get(&k)
		tab.Delete(&k)
		tab.Put(k, v)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// FuzzTable reads operations of three bytes: what to do, and with which of 65536 keys.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 0, 2, 1, 0, 1, 2, 0, 2})
	f.Add([]byte{0, 0, 1, 1, 0, 1, 1, 0, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		tab, want := NewTable(200), map[Key]int32{}
		var used []Key
		for ; len(ops) >= 3; ops = ops[3:] {
			n := binary.BigEndian.Uint16(ops[1:])
			k := testKey(int(n))
			used = append(used, k)
			switch ops[0] % 3 {
			case 0:
				if tab.Put(k, int32(n)) {
					want[k] = int32(n)
				}
			case 1:
				tab.Delete(&k)
				delete(want, k)
			case 2: // a run of keys, so that short inputs reach a resize
				for i := range int(n % 256) {
					if k := testKey(i); tab.Put(k, int32(i)) {
						want[k] = int32(i)
					}
				}
			}
		}
		checkTable(t, tab, want, used)
	})
}

func BenchmarkTableGet(b *testing.B) {
	for _, bench := range []struct {
		name string
		n    int
	}{{"10", 10}, {"10000", 10000}, {"100000", 100000}} {
		b.Run(bench.name, func(b *testing.B) {
			tab := NewTable(bench.n)
			keys := make([]Key, bench.n)
			for i := range keys {
				keys[i] = testKey(i)
				tab.Put(keys[i], int32(i))
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, ok := tab.Get(&keys[i]); !ok {
					b.Fatal("not found")
				}
				if i++; i == bench.n {
					i = 0
				}
			}
		})
	}
}
