package cmd

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lxcboot/lxcboot/pkg/report"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

const (
	progressAfter = time.Second            // what is done sooner needs none
	progressEvery = 200 * time.Millisecond // so often is it told
	clearLine     = "\r\x1b[K"
)

// meter tells in a line on stderr how far something is, how fast it goes, and how long it
// will take.
type meter struct {
	a    *App
	what string
	now  func() time.Time

	mu           sync.Mutex
	began, shown time.Time
	first        int64 // bytes that were done when it was first told
	told         bool
}

// progress is a line on stderr, where that is a terminal, of what takes more than a second. It
// goes when it is finished.
func (a *App) progress(what string) (step func(done, total int64), finish func()) {
	if a.quiet || !isTerminal(a.Err) {
		return nil, func() {}
	}
	m := &meter{a: a, what: tty.Line(what), now: time.Now}
	m.began = m.now()
	return m.step, m.finish
}

// step tells the bytes done, and in all; 0: that is not known.
func (m *meter) step(done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if !m.told {
		m.first, m.told = done, true
	}
	if now.Sub(m.began) < progressAfter || now.Sub(m.shown) < progressEvery {
		return
	}
	m.shown = now
	parts := []string{report.Bytes(done).Human()}
	if total > 0 {
		parts = []string{fmt.Sprintf("%d%% of %s", done*100/total, report.Bytes(total).Human())}
	}
	if rate := float64(done-m.first) / now.Sub(m.began).Seconds(); rate >= 1 {
		parts = append(parts, report.Bytes(rate).Human()+"/s")
		if total > done {
			left := time.Duration(float64(total-done) / rate * float64(time.Second))
			parts = append(parts, left.Round(time.Second).String()+" left")
		}
	}
	fmt.Fprint(m.a.Err, clearLine+m.what+": "+strings.Join(parts, ", "))
}

// finish takes the line away.
func (m *meter) finish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.shown.IsZero() {
		fmt.Fprint(m.a.Err, clearLine)
	}
}
