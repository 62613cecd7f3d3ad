package report

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Sort sorts the rows by columns, the first counting most, each as NAME, NAME:asc or NAME:desc
// in any case. Rows that are equal stay in their order. A column that there is not is
// failure.ErrInvalid.
func (l *List) Sort(keys []string) error {
	var columns []int
	var signs []int
	for _, key := range keys {
		name, order, _ := strings.Cut(key, ":")
		sign := 1
		switch strings.ToLower(order) {
		case "", "asc":
		case "desc":
			sign = -1
		default:
			return failure.Invalid("--sort %q: the order is asc or desc", key)
		}
		i := slices.IndexFunc(l.Columns, func(c string) bool { return strings.EqualFold(c, name) })
		if i < 0 {
			return failure.Invalid("--sort %q: there is no column %q; there are %s", key, name, strings.Join(l.Columns, ", "))
		}
		columns, signs = append(columns, i), append(signs, sign)
	}
	slices.SortStableFunc(l.Rows, func(a, b []any) int {
		for n, i := range columns {
			if c := compare(a[i], b[i]); c != 0 {
				return signs[n] * c
			}
		}
		return 0
	})
	return nil
}

// compare orders two values of a column: numbers and times as such, and all else as it is
// shown.
func compare(a, b any) int {
	if x, ok := a.(time.Time); ok {
		if y, ok := b.(time.Time); ok {
			return x.Compare(y)
		}
	}
	if x, ok := number(a); ok {
		if y, ok := number(b); ok {
			return cmp.Compare(x, y)
		}
	}
	return strings.Compare(Cell(a), Cell(b))
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case float64:
		return v, true
	case Bytes:
		return float64(v), true
	}
	return 0, false
}
