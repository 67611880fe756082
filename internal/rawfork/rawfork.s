// The file makes the compiler accept the body-less functions of rawfork_unsafe.go, which go:linkname provides.
