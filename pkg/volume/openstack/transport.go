package openstack

import (
	"net/http"
	"time"
)

// soon is how long a person waits without being told what for.
const soon = time.Second

// observed tells of each request, and of an answer that is long in coming. It tells
// neither headers nor bodies, which hold the secrets.
type observed struct {
	base  http.RoundTripper
	store *Store
}

func (o *observed) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.ContentLength > 0 { // what is not known before is an image, which takes its time
		told := time.AfterFunc(soon, func() { o.store.waiting(r.URL.Host + " has not answered yet") })
		defer told.Stop()
	}
	start := time.Now()
	answer, err := o.base.RoundTrip(r)
	log := o.store.o.Log.With("method", r.Method, "url", o.store.clean(r.URL.Redacted()), "time", time.Since(start).Round(time.Millisecond))
	if err != nil {
		log.Debug("no answer", "error", o.store.clean(err.Error()))
		return nil, err
	}
	log.Debug("answer", "status", answer.StatusCode, "request", answer.Header.Get("X-Openstack-Request-Id"))
	return answer, nil
}

// waiting tells, once, that the cloud makes us wait.
func (s *Store) waiting(why string) {
	s.told.Do(func() { s.o.Waiting("waiting for the cloud: " + why) })
}
