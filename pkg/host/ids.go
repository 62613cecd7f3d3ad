package host

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// IDRange is a range of the host's user and group ids.
type IDRange struct {
	First uint32 `json:"first"`
	Count uint32 `json:"count"`
}

func (r IDRange) end() uint64 { return uint64(r.First) + uint64(r.Count) }

// Overlaps says whether two ranges have an id in common.
func (r IDRange) Overlaps(o IDRange) bool {
	return uint64(r.First) < o.end() && uint64(o.First) < r.end()
}

// IDPool is where containers get their ranges of host ids from.
type IDPool struct {
	From   string // where that is said
	Within []IDRange
	Except []IDRange // what others have in it
}

// FirstID is the first host id of containers where nothing else is said: the ids from a
// million on, a billion of them, are what Incus takes by default.
const FirstID = 1_001_062_400

// The files in which ids are given to users, and lxcboot as one of them.
const (
	subUID = "/etc/subuid"
	subGID = "/etc/subgid"
	idUser = "lxcboot"
)

// IDs is the pool of this host: what the lines of lxcboot in /etc/subuid and /etc/subgid
// give, or else the ids from FirstID on but for those of anybody's lines.
func IDs() (IDPool, error) { return readIDs(subUID, subGID) }

func readIDs(uids, gids string) (IDPool, error) {
	ours, others, err := readLines(uids)
	if err != nil {
		return IDPool{}, err
	}
	groups, more, err := readLines(gids)
	if err != nil {
		return IDPool{}, err
	}
	if len(ours)+len(groups) == 0 {
		pool := IDsFrom(FirstID)
		pool.Except = append(others, more...)
		return pool, nil
	}
	pool := IDPool{From: fmt.Sprintf("the lines of %s in %s and %s", idUser, uids, gids)}
	for _, u := range ours {
		for _, g := range groups {
			if first := max(u.First, g.First); u.Overlaps(g) {
				pool.Within = append(pool.Within, IDRange{first, uint32(min(u.end(), g.end()) - uint64(first))})
			}
		}
	}
	if len(pool.Within) == 0 {
		return pool, failure.Invalid("%s and %s give %s no ids in common: it needs the same line, like %[3]s:1100000000:65536000, in both", uids, gids, idUser)
	}
	return pool, nil
}

// IDsFrom is the pool of the ids from one on that an administrator has chosen: it holds as
// many ranges as there are.
func IDsFrom(first uint32) IDPool {
	return IDPool{From: fmt.Sprintf("the ids from %d on", first), Within: []IDRange{{first, 1<<32 - 1<<16 - first}}}
}

// readLines gives the ranges of lxcboot and of others. A file that is not there has none;
// a line that is none is passed over, as the tools of these files do.
func readLines(path string) (ours, others []IDRange, err error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("cannot read which ids others have: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		first, e1 := strconv.ParseUint(fields[1], 10, 32)
		count, e2 := strconv.ParseUint(fields[2], 10, 32)
		if cmp.Or(e1, e2) != nil {
			continue
		}
		count = min(count, math.MaxUint32-first) // the last one is no id
		if r := (IDRange{uint32(first), uint32(count)}); fields[0] == idUser {
			ours = append(ours, r)
		} else {
			others = append(others, r)
		}
	}
	return ours, others, nil
}

// Find gives the first range of so many ids of the pool that overlaps none that is taken.
func (p IDPool) Find(count uint32, taken []IDRange) (IDRange, bool) {
	taken = append(append([]IDRange(nil), p.Except...), taken...)
	for _, within := range p.Within {
		for first := uint64(within.First); first+uint64(count) <= within.end(); {
			r := IDRange{uint32(first), count}
			free := true
			for _, t := range taken {
				if r.Overlaps(t) {
					free = false
					// The next of ours that begins after it.
					first += (t.end() - first + uint64(count) - 1) / uint64(count) * uint64(count)
					break
				}
			}
			if free {
				return r, true
			}
		}
	}
	return IDRange{}, false
}
