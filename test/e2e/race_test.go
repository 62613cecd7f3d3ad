//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// racers is how many processes run at once.
const racers = 8

// rounds is how often each race is run: at least E2E_ROUNDS times in all, and a few in a
// quick run.
func rounds(races int) int {
	if torture > 0 {
		return (torture + races - 1) / races
	}
	return 5
}

// A race is what each of the processes types, and which exit codes there may be.
type race struct {
	name   string
	before [][]string
	// args is what the i-th process types.
	args func(i int) []string
	// winners is how many must end with exit code 0; -1: any number.
	winners int
	// after are what has to be deleted then, whether it is there or not.
	after [][]string
}

const rootSpec = "source=image,id=busybox,dest=volume,size=1,shutdown=remove,bootindex=0"

func races() []race {
	boot := func(name, spec string) []string {
		return []string{"boot", "--flavor", "m1.tiny", "--nic", "none", "--block-device", spec, name}
	}
	either := func(a, b []string) func(int) []string {
		return func(i int) []string {
			if i%2 == 0 {
				return a
			}
			return b
		}
	}
	var many []string
	for i := range racers {
		many = append(many, fmt.Sprint("NAME-", i))
	}
	return []race{
		{
			name: "one volume", winners: 1,
			before: [][]string{{"volume", "create", "--image", "busybox", "--size", "1", "root"}},
			args: func(i int) []string {
				return boot(fmt.Sprint("NAME-", i), "source=volume,id=root,dest=volume,shutdown=preserve,bootindex=0")
			},
			after: [][]string{append([]string{"delete", "--force"}, many...), {"volume", "delete", "root"}},
		},
		{
			name: "one name", winners: 1,
			args:  func(int) []string { return boot("NAME", rootSpec) },
			after: [][]string{{"delete", "NAME"}},
		},
		{
			name: "boot and delete", winners: -1,
			args:  either(boot("NAME", rootSpec), []string{"delete", "NAME"}),
			after: [][]string{{"delete", "--force", "NAME"}},
		},
		{
			name: "start and stop", winners: -1,
			before: [][]string{boot("NAME", rootSpec)},
			args:   either([]string{"start", "NAME"}, []string{"stop", "--force", "NAME"}),
			after:  [][]string{{"delete", "NAME"}},
		},
		{
			name: "one image", winners: -1,
			before: [][]string{{"image", "import", "IMAGE", "--name", "other"}},
			args: func(i int) []string {
				if i%2 == 0 {
					return []string{"image", "delete", "other"}
				}
				return []string{"volume", "create", "--image", "other", "--size", "1", fmt.Sprint("made-", i)}
			},
		},
		{
			name: "one file", winners: racers,
			args: func(i int) []string { return []string{"image", "import", "IMAGE", "--name", fmt.Sprint("copy-", i)} },
			after: func() (all [][]string) {
				for i := range racers {
					all = append(all, []string{"image", "delete", fmt.Sprint("copy-", i)})
				}
				return all
			}(),
		},
	}
}

// TestRaces lets eight processes at once have at the same thing: who may win does, the
// others are told so and change nothing, and whoever looks meanwhile sees what was or
// what is.
func TestRaces(t *testing.T) {
	all := races()
	count := newTally(t, fmt.Sprintf("races of %d processes", racers))
	w := newWorld(t, "races", count)
	n := rounds(len(all))
	for _, r := range all {
		t.Run(r.name, func(t *testing.T) {
			w.t = t
			for range n {
				count.fault()
				w.race(r)
				if t.Failed() {
					return
				}
			}
		})
	}
}

func (w *world) race(r race) {
	for _, args := range r.before {
		w.must(args...)
	}
	codes, outs := make([]int, racers), make([]string, racers)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range racers {
		wg.Go(func() {
			<-start
			codes[i], outs[i] = w.run(r.args(i)...)
		})
	}
	stop, read := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		for {
			select {
			case <-stop:
				return
			default:
				w.look()
			}
		}
	}()
	close(start)
	wg.Wait()
	close(stop)
	<-read
	won := 0
	for i, code := range codes {
		switch {
		case code == 0:
			won++
		case code != 3 && code != 4:
			w.t.Errorf("%v: exit code %d\n%s", r.args(i), code, outs[i])
		}
	}
	if r.winners >= 0 && won != r.winners {
		w.t.Errorf("%d of %d won:\n%s", won, racers, strings.Join(outs, "\n"))
	}
	for _, args := range r.after {
		if code, out := w.run(args...); code != 0 && code != 3 {
			w.t.Errorf("%v: exit code %d\n%s", args, code, out)
		}
	}
	// What the processes themselves made under a name of their own.
	for i := range racers {
		w.run("volume", "delete", fmt.Sprint("made-", i))
	}
	w.run("image", "delete", "other")
	w.asBefore()
}

// look is a reader in the middle of it all.
func (w *world) look() {
	for _, args := range [][]string{{"list", "-f", "json"}, {"volume", "list", "-f", "json"}, {"image", "list", "-f", "json"}} {
		code, out := w.run(args...)
		if code != 0 || !json.Valid([]byte(out)) {
			w.t.Errorf("%v meanwhile: exit code %d\n%s", args, code, out)
		}
	}
}
