package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/wait"
)

// DefaultLogBytes is the most that a console log takes, with the part before it.
const DefaultLogBytes = 8 << 20

// boundedLog appends to a file. When that holds half of the bytes allowed it
// becomes path.1, in place of an older one. Nothing else may write to them.
type boundedLog struct {
	path string
	half int64
	f    *os.File
	size int64
}

func openLog(path string, maxBytes int64) (*boundedLog, error) {
	l := newLog(path, maxBytes)
	return &l, l.open()
}

// newLog is a log that is opened when it is first written.
func newLog(path string, maxBytes int64) boundedLog {
	if maxBytes <= 0 {
		maxBytes = DefaultLogBytes
	}
	return boundedLog{path: path, half: max(maxBytes/2, 1)}
}

// retryLog is how long a log that could not be written is left alone.
const retryLog = time.Second

// lossyLog is a boundedLog that cannot fail: what cannot be written is dropped, and the
// log says how much that was as soon as it can be written again.
type lossyLog struct {
	boundedLog
	lost  int64
	why   error
	retry time.Time
}

func (l *lossyLog) write(p []byte) {
	if l.why != nil && time.Now().Before(l.retry) {
		l.lost += int64(len(p))
		return
	}
	if l.lost > 0 {
		l.mark()
	}
	if l.lost == 0 {
		n, err := l.Write(p)
		p = p[n:]
		l.why = err
	}
	l.lost += int64(len(p))
	l.retry = time.Now().Add(retryLog)
}

// mark writes how much was lost.
func (l *lossyLog) mark() {
	why := "the log could not be written in time"
	if l.why != nil {
		why = l.why.Error()
	}
	n, err := l.Write(fmt.Appendf(nil, "\r\n[lxcboot: %d bytes were lost here: %s]\r\n", l.lost, why))
	if err == nil || n > 0 {
		l.lost = 0
	}
	l.why = err
}

// backlog is how many parts of output may wait for the log, and patience how long a
// disk that stands still may hold up the container.
const (
	backlog  = 256
	patience = 5 * time.Second
)

// logQueue writes to a log aside: no disk may hold up the container for ever.
type logQueue struct {
	parts chan []byte
	done  chan struct{}
	lost  atomic.Int64 // bytes that found no place
	stuck bool
}

func queueLog(path string, maxBytes int64) *logQueue {
	q := &logQueue{parts: make(chan []byte, backlog), done: make(chan struct{})}
	l := &lossyLog{boundedLog: newLog(path, maxBytes)}
	go func() {
		defer close(q.done)
		for p := range q.parts {
			l.lost += q.lost.Swap(0)
			l.write(p)
		}
		if l.lost += q.lost.Swap(0); l.lost > 0 {
			l.mark()
		}
		closeFile(l.f)
	}()
	return q
}

// put hands a part over, which must not change any more.
func (q *logQueue) put(p []byte) {
	select {
	case q.parts <- p:
		q.stuck = false
		return
	default:
	}
	if !q.stuck {
		select {
		case q.parts <- p:
			return
		case <-time.After(patience):
			q.stuck = true
		}
	}
	q.lost.Add(int64(len(p)))
}

// end waits until all is written, as far as the disk lets it.
func (q *logQueue) end() {
	close(q.parts)
	select {
	case <-q.done:
	case <-time.After(patience):
	}
}

func (l *boundedLog) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the console log: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("the console log %s is not a regular file", l.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, st.Size()
	return nil
}

// Write splits p at the limit, so that the bound holds to the byte. After an error it
// can be called again.
func (l *boundedLog) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if l.f != nil && l.size >= l.half {
			if err := l.rotate(); err != nil {
				return done, err
			}
		}
		if l.f == nil {
			if err := l.open(); err != nil {
				return done, err
			}
			continue
		}
		part := p[done:]
		if room := l.half - l.size; int64(len(part)) > room {
			part = part[:room]
		}
		n, err := l.f.Write(part)
		l.size += int64(n)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (l *boundedLog) rotate() error {
	if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := l.f.Close()
	l.f = nil
	return err
}

func (l *boundedLog) Close() error { return l.f.Close() }

// NoLines is how many lines ReadLog and FollowLog write when they write none of what is there.
const NoLines = -1

// ReadLog writes the last lines of a console log to w; with 0 all that is kept. A
// log that is not there is empty. The bytes are the container's own: see Sanitize.
func ReadLog(path string, lines int, w io.Writer) error {
	f, err := readLog(path, lines, w)
	return errors.Join(err, closeFile(f))
}

// readLog also gives the log as far as it was read. It is nil when there is none.
func readLog(path string, lines int, w io.Writer) (*os.File, error) {
	// The newer one first: when it rotates in between, the older is the same file,
	// and is then read once only.
	cur, err := openForReading(path)
	if err != nil {
		return nil, err
	}
	old, err := openForReading(path + ".1")
	if err != nil {
		return nil, errors.Join(err, closeFile(cur))
	}
	defer closeFile(old)
	var data []byte
	for _, f := range []*os.File{old, cur} {
		if f == nil || f == old && sameFile(old, cur) {
			continue
		}
		part, err := io.ReadAll(f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot read the console log: %w", err), closeFile(cur))
		}
		data = append(data, part...)
	}
	if _, err := w.Write(lastLines(data, lines)); err != nil {
		return nil, errors.Join(err, closeFile(cur))
	}
	return cur, nil
}

func lastLines(data []byte, lines int) []byte {
	if lines == NoLines {
		return nil
	}
	if lines == 0 {
		return data
	}
	at := len(bytes.TrimSuffix(data, []byte("\n")))
	for ; lines > 0; lines-- {
		if at = bytes.LastIndexByte(data[:at], '\n'); at < 0 {
			return data
		}
	}
	return data[at+1:]
}

// FollowLog is ReadLog, and then writes what is added to the log, until ctx
// ends (its cause is the error) or ended, when not nil, says that nothing more will
// be added. A log that is not there yet is waited for.
func FollowLog(ctx context.Context, path string, lines int, w io.Writer, ended func() bool) error {
	f, err := readLog(path, lines, w)
	if err != nil {
		return err
	}
	defer func() { closeFile(f) }()
	for {
		last := ended != nil && ended()
		if f != nil {
			if _, err := io.Copy(w, f); err != nil {
				return err
			}
		}
		next, err := openForReading(path)
		if err != nil {
			return err
		}
		switch {
		case next == nil || f != nil && sameFile(f, next):
			closeFile(next)
		default: // it rotated: first the rest of the old one, then the new one
			if f != nil {
				if _, err := io.Copy(w, f); err != nil {
					return errors.Join(err, closeFile(next))
				}
			}
			closeFile(f)
			f = next
			continue
		}
		if last {
			return nil
		}
		if err := wait.For(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// openForReading gives nil when the file is not there.
func openForReading(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the console log: %w", err)
	}
	return f, nil
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

func sameFile(a, b *os.File) bool {
	if a == nil || b == nil {
		return false
	}
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}
