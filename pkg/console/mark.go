package console

import (
	"bytes"
	"crypto/rand"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

// passLimit is how long libvirt_lxc may take to hand on what a container said last.
const passLimit = 5 * time.Second

// A mark is printed after all that a container said, into its terminal, and taken out of
// what comes through libvirt_lxc: it is the proof that there is no more. Nobody can print
// it before, as it is made when it is needed.
type mark struct {
	mu      sync.Mutex
	text    []byte        // nil: not printed, or taken out
	begun   []byte        // what may be the beginning of it
	through chan struct{} // closed when it has come
}

// pass prints the mark and waits until it has come through, or libvirt_lxc has ended. The
// container has ended: nobody else prints any more.
func (m *mark) pass(inner *os.File, ended <-chan struct{}) {
	terminal, err := tty.Peer(inner)
	if err != nil {
		return
	}
	defer terminal.Close()
	// However the container left it: a line discipline that changes nothing and stops
	// for nobody.
	fd := int(terminal.Fd())
	_, err = term.MakeRaw(fd)
	if err != nil || unix.IoctlSetInt(fd, unix.TCXONC, unix.TCOON) != nil || unix.SetNonblock(fd, true) != nil {
		return
	}
	text := make([]byte, 32)
	rand.Read(text)
	m.mu.Lock()
	m.text, m.through = text, make(chan struct{})
	m.mu.Unlock()
	limit := time.NewTimer(passLimit)
	defer limit.Stop()
	for left := text; len(left) > 0; {
		n, err := unix.Write(fd, left)
		left = left[max(n, 0):]
		switch {
		case err == unix.EAGAIN: // there is much before it
			select {
			case <-time.After(time.Millisecond):
				continue
			case <-limit.C:
			case <-ended:
			}
			return
		case err != nil && err != unix.EINTR:
			return
		}
	}
	select {
	case <-m.through:
	case <-limit.C:
	case <-ended:
	}
}

// cut takes the mark out of what has come. What may be its beginning is kept back.
func (m *mark) cut(p []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.text == nil {
		return p
	}
	p = append(m.begun, p...)
	before, after, found := bytes.Cut(p, m.text)
	if found {
		m.text, m.begun = nil, nil
		close(m.through)
		return append(before, after...)
	}
	n := min(len(p), len(m.text)-1)
	for !bytes.HasPrefix(m.text, p[len(p)-n:]) {
		n--
	}
	m.begun = bytes.Clone(p[len(p)-n:])
	return p[:len(p)-n]
}

// rest is what was kept back of what has come.
func (m *mark) rest() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	rest := m.begun
	m.text, m.begun = nil, nil
	return rest
}
